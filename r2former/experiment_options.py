"""Options that both trainings share; a config scope of sacred, which both take up as it stands."""


def loop_options():
    freeze = 0  # blocks of the backbone that stay as they are
    lr_batch_size = None  # groups that lr belongs to: scaled in proportion to the batch; None: not
    save_best = 0  # index into dataset.recall_values of the recall that decides
    save_dir = "default"  # checkpoints go to logs/<save_dir>
    cpu = False  # stay on the CPU where there is a GPU
    groups_per_pass = None  # groups in memory at once; None: all. Gradients add up
    autocast = False  # forward pass of training in bfloat16
    max_minutes = None  # wall-clock budget; then one more measurement and a clean end
    log_every = 20  # steps between console lines
    checkpoint_every = 500  # steps between writes of last_model.pth; 0: after rounds and epochs
    continue_from = None  # last_model.pth of an interrupted run: goes on exactly where it stood
    continue_run = False  # the same with logs/<save_dir>/last_model.pth, where there is one
    collapse_spread = 0.02  # a word when queries and negatives are nearer on average
    collapse_share = 0.5  # ends when recall falls below this share of the best; 0: never
