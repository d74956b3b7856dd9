"""The commands of the command line, a module each: ``run(arguments) -> exit code``.

A command embeds the settings of what it calls, so that a flag is declared once. Each command loads what it needs when it is
called. Imports ``errors``, ``settings``, ``system``, ``data``, ``models``, ``evaluation``, ``advice``, ``config``, ``runs``, ``interop``,
``reporting``, ``engine``, ``soups``, ``serving``, ``bench``, ``doctor`` and ``recipes``. Imported by ``cli``.
"""

COMMANDS = {
    "train": "fine-tune on a long-tailed data set, evaluate, write a run folder",
    "evaluate": "accuracy of a run: overall, many, medium, few, calibration; five- or ten-crop ensembling",
    "calibrate": "after training: the prior's strength, a temperature and a threshold, fitted on a validation split",
    "predict": "names and probabilities for photographs and folders",
    "serve": "predictions over HTTP, and a page where an image is dropped",
    "zero-shot": "accuracy of CLIP as it is, without training",
    "data": "prepare, check, stats, pack: what a data set holds, and what is missing or broken",
    "import-lift": "a run folder from a checkpoint of the authors' LIFT or LIFT+",
    "soup": "the average of what several runs, or epochs of one, have trained, as a run",
    "advise": "where to spend: classes that lose most, wrong labels, copies between splits, more images",
    "report": "one HTML page of one run, or of several side by side",
    "export": "files that serve a run without fastlift: ONNX, torch.export, AOTInductor",
    "adapters": "what a run trained inside its backbone, for timm, open_clip, transformers and PEFT",
    "push": "a run to the Hugging Face hub, with a model card",
    "bench": "speed and memory on this machine, beside plain PyTorch and torchvision",
    "completion": "a script that completes commands and flags in bash or zsh",
    "doctor": "what this machine has, and what will be used",
}
