"""Options that both trainings share; a config scope of sacred, which both take up as it stands."""


def loop_options():
    epochs = 100  # 0: evaluation only
    weight_decay = 4e-4  # on all parameters, see no_bias_decay
    scheduler = "multistep"  # multistep (published, per epoch); cos_step, warmcos_step (per step)
    scheduler_tau = [60, 80]  # epochs at which multistep lowers the rate
    scheduler_gamma = 0.1  # factor of multistep
    warmup_steps = 0  # linear rise of warmcos_step
    max_norm = 0.0  # clip the total gradient 2-norm to this; 0: no clipping (published)
    no_bias_decay = False  # no decay on 1-d parameters: biases and norms
    cpu = False  # stay on the CPU where there is a GPU
    cudnn_flag = "benchmark"  # benchmark or deterministic
    temp_dir = "logs/temp"  # best and last checkpoint
    visdom_freq = 20  # steps between console lines
    max_minutes = None  # wall-clock budget of training; then one more evaluation and a clean end
    autocast = False  # forward pass of training in bfloat16
    checkpoint_every = 1000  # steps between writes of last.pt; 0: at epoch ends only
    continue_from = None  # last.pt of an interrupted run: goes on exactly where it stood
    continue_run = False  # the same with <temp_dir>/last.pt, where there is one
