"""DELG features of a picture: the exported graph against the published procedure as a graph.

    python -m benchmarks.delg_extraction [--height H] [--width W] [--rounds R] [--threads T]

ResNet-50 of random weights, a 640 x 480 picture, seven scales, global descriptors of three of them.
Straightforward version: the network as it was trained, all of it at every level, and suppression of
boxes. Exported: batch normalisation within the convolutions, bottlenecks at the end of a block only
where the next one looks, block4 only where a global descriptor is asked for, a sorted selection.
Both in turns; the best round each, by the clock and by processor seconds (which other programs on
the machine disturb less). Descriptors must agree within 1e-5.
Claim: at least 1.3 times faster.
"""

import argparse
import os
import time

import numpy as np

SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
GLOBAL_SCALES = (3, 4, 5)
MAX_FEATURES = 1000
TOLERANCE = 1e-5  # of unit descriptors
CLAIM = 1.3


def make_network(seed: int):
    """DELG with random weights whose batch statistics are those of random pictures."""
    import tensorflow as tf

    from delg_training.models.delg import ModelOptions, build_model
    from delg_training.models.weights import named_variables

    network = build_model(ModelOptions(), seed=seed)
    rng = np.random.default_rng(seed)
    for name, variable in named_variables(network):
        shape = variable.shape.as_list()
        if name.endswith("moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape).astype(np.float32))
        elif name.endswith(("moving_mean", "beta", "bias")):
            variable.assign(rng.normal(0, 0.05, shape).astype(np.float32))
        elif name.endswith("gamma"):
            scale = 0.5 if "bn2c" in name else 1.0  # else sixteen sums of two would explode
            variable.assign(tf.fill(shape, scale))
    return network


def make_straightforward(network):
    """The published procedure (delg_training's README, exported models) as one graph."""
    import tensorflow as tf

    from delg_training.models.pyramid import (
        level_sizes,
        normalise_image,
        receptive_boxes,
        resize_level,
    )

    stride = 32 if network.backbone.block3_strides else 16

    @tf.function
    def extract(image, scales, max_feature_num, threshold, global_indices):
        normalised = normalise_image(image)
        sizes, count = level_sizes(image, scales), tf.shape(scales)[0]
        widths: dict[str, list[int | None]] = {
            "boxes": [4],
            "features": [None],
            "scales": [],
            "scores": [],
        }
        rows = {
            name: tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=[None, *width])
            for name, width in widths.items()
        }
        vectors = tf.TensorArray(tf.float32, count)
        for i in tf.range(count):
            descriptors, blocks = network.backbone(resize_level(normalised, sizes[i]))
            prob, features = network.local_features(blocks["block3"])
            scores, shape = tf.reshape(prob, [-1]), tf.shape(prob)
            boxes = receptive_boxes(shape[1], shape[2], stride) / scales[i]
            kept = tf.reshape(tf.where(scores >= threshold), [-1])
            flat = tf.reshape(features, [-1, features.shape[-1]])
            found = {
                "boxes": tf.gather(boxes, kept),
                "features": tf.gather(flat, kept),
                "scales": tf.fill([tf.shape(kept)[0]], 1.0 / scales[i]),
                "scores": tf.gather(scores, kept),
            }
            rows = {name: array.write(i, found[name]) for name, array in rows.items()}
            vectors = vectors.write(i, descriptors[0])
        every = {name: array.concat() for name, array in rows.items()}
        number = tf.minimum(max_feature_num, tf.shape(every["scores"])[0])
        best = tf.image.non_max_suppression(every["boxes"], every["scores"], number, 1.0)
        chosen = tf.gather(vectors.stack(), tf.sort(global_indices))
        return {name: tf.gather(v, best) for name, v in every.items()} | {
            "global_descriptors": chosen
        }

    return extract


def check_equal(one: dict, other: dict) -> float:
    """Largest difference of unit descriptors; SystemExit beyond the tolerance."""
    largest = 0.0
    for name in ("features", "global_descriptors"):
        rows = [
            found[name] / np.linalg.norm(found[name], axis=1)[:, None] for found in (one, other)
        ]
        if name == "features":  # scores that differ by rounding alone may have swapped
            orders = [np.lexsort((*f["boxes"].T, f["scales"])) for f in (one, other)]
            rows = [row[order] for row, order in zip(rows, orders, strict=True)]
        largest = max(largest, float(np.abs(rows[0] - rows[1]).max()))
    if not largest < TOLERANCE:
        raise SystemExit(f"descriptors differ by {largest:.2g}, allowed are {TOLERANCE:g}")
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as TensorFlow chooses")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from delg_training.models.export import LocalAndGlobalModel

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(min(1, options.threads))
    network = make_network(0)
    exported = LocalAndGlobalModel(network)
    versions = {"straightforward": make_straightforward(network), "exported": exported.serve}
    shape = (options.height // 8, options.width // 8, 3)
    coarse = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    arguments = [
        tf.constant(picture), tf.constant(SCALES), tf.constant(MAX_FEATURES),
        tf.constant(0.0), tf.constant(GLOBAL_SCALES),
    ]  # fmt: skip
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    best = {name: dict.fromkeys(clocks, float("inf")) for name in versions}
    found = {}
    for round_number in range(options.rounds + 1):  # the first one traces and warms up
        for name, version in versions.items():
            starts = {kind: clock() for kind, clock in clocks.items()}
            found[name] = {key: value.numpy() for key, value in version(*arguments).items()}
            for kind, clock in clocks.items() if round_number else ():
                best[name][kind] = min(best[name][kind], clock() - starts[kind])
    largest = check_equal(*found.values())
    print(f"{options.width} x {options.height}, {len(SCALES)} scales, differences <= {largest:.1e}")
    for name, seconds in best.items():
        print(f"{name:16s}" + "".join(f" {kind} {s:7.3f} s" for kind, s in seconds.items()))
    slow, fast = best["straightforward"], best["exported"]
    ratios = "".join(f" {kind} {slow[kind] / fast[kind]:9.2f}" for kind in clocks)
    print(f"ratio {ratios:>30s} (claim: {CLAIM:g})")


if __name__ == "__main__":
    main()
