"""The words of docs/scaling.md, with the names of computed numbers and tables in braces."""


def number(value: float) -> str:
    """About three digits, thousands separated."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


DOCUMENT = """# Many GPUs

What more GPUs bring, what they cost, and what breaks first. **No GPU was there.** Two things were measured, on two CPU cores: that
several processes compute what one computes, and what their collectives take there. Everything about GPUs is computed, from counted FLOP
and bytes ([roofline.md](roofline.md)) and the rates of links, by `benchmarks/scaling/model.py`. The assumptions are named.

## How to run

```bash
torchrun --nproc-per-node 8 -m fastlift train --dataset imagenet_lt --data-root /data/imagenet --output /shared/runs/imagenet
```

On several nodes, add torchrun's `--nnodes`, `--rdzv-backend c10d` and `--rdzv-endpoint` ([several processes](several_processes.md)).
[examples/cluster](../examples/cluster/README.md) has scripts for Slurm, Kubernetes and spot machines. All of them repeat one command
with `--resume auto`. `--batch-size` is the batch of all processes together, so the number of GPUs does not change the run. A classifier
of 100,000 classes and more is split with `--shard-classifier`. Data in a store or in shards: [data.md](data.md#webdataset-shards).

**One GPU is often enough.** LIFT's recipe on ImageNet-LT is 10 epochs of 115,846 images with a batch of 128: {steps} steps. Computed,
that is {one_s} s of one H100, {eight_s} s of eight ({graph_s} s with `--compile max`), and {most_s} s of a thousand, of which {idle} have no
image. Starting the processes and loading the weights may take as long.

## Measured: processes on two cores

`python -m benchmarks.scaling` trains the shipped CLIP on `shapes_lt` for an epoch with 1, 2 and 4 processes of one thread each (gloo,
fp32, a global batch of 128). Other programs used the two cores at the same time, and four processes share them. So contenders
alternate in one run, a round counts as long as its slowest process, and the tables have medians of the rounds' ratios. The absolute
times are those of a busy machine.

{measured_table}

- **Equality**: samples, crops and updates are the same. What differs is the order in which floats are added.
- **A step**: this model's gradients are 67 kB. What the others add to a step is smaller than the noise.
- **The sums of a ViT-B/16** would be a small part of its step: 128 images take {cpu_step_s} s on two such cores ([results](results.md)).
- **Memory** is mainly Python, torch and the decoded images, which every process has; activations shrink with its share of the batch.

## Computed: the time of a step

A step takes the longer of its kernels and its launches, and then what its gradients take that the backward pass does not hide.

- **Kernels**: `benchmarks/roofline.py` with {images} images a GPU, on an {card}. For a few images a GPU this is too fast, because small products do
  not fill a GPU. There the launches decide in any case.
- **Launches**: {ops} ops were counted in a step, views among them. Assumed: {eager_us} µs each for the host, so {eager_ms} ms; {captured_us} µs each in a CUDA
  graph, so {captured_ms} ms. For other models the same number is used.
- **Inside a node**: NVLink of 900 GB/s both ways, {nvlink} GB/s each way, of which a collective reaches {nvlink_share} % (assumed). A ring of g GPUs moves
  2 (g - 1) / g of the bytes, with 2 (g - 1) hops of {ring} µs. A sum by the switch (NVLS) moves 1 + 1/g, in {switch} µs. The faster one counts.
- **Between nodes**: each GPU of a node sums its eighth. A ring of M nodes moves 2 (M - 1) / M of the bytes through a node's network, with
  2 (M - 1) hops of {hop} µs; a tree moves twice the bytes, with 2 log2 M hops. The faster one counts. {network_share} % of the network's rate is
  reached (assumed). Every collective starts in {start} µs. The latencies are those that NCCL's tuner uses (`tuning.cc`, protocol Simple).
- **Hidden**: buffers of more than 16 MiB are summed in segments while the backward pass goes on; LIFT's is smaller, so all of it counts.
  Steps in CUDA graphs hide nothing, and those of a split classifier are not captured ([architecture](architecture.md#training-step)).
- **Left out**: waiting for data, stragglers, evaluation, checkpoints, other jobs on the network.

### What travels

{exchange_table}

The gradients of LIFT are a sixtieth of those of full fine-tuning. So slow networks are sufficient: at 100 Gb/s for eight GPUs,
the {lift_mb} MB take {lift_ms} ms.

![images/s with one global batch, and efficiency with 128 images a GPU, over the number of GPUs; computed](images/scaling.svg)

### As many images on each GPU (weak scaling)

{weak_table}

The efficiency is high because the batch grows: 1,024 GPUs have a global batch of 131,072, with which nobody has trained LIFT.

### One global batch (strong scaling)

{strong_table}

In brackets: the share of N times one GPU. Over a network of 100 Gb/s a node. From some number of GPUs on, the launches and the latency
of the sum are the step, and more GPUs make it slower. `--compile max` moves that point to about four times as many.

### Many classes

{classes_table}

GiB: weight, gradient and momentum of the classifier, and its logits or their exponentials, in fp32. On every GPU, its gradient travels
in every step. Split, only the features of the batch do ({images_64} images a GPU), but in four gathers and three sums that nothing hides. A ring over
many nodes makes these slow: at 512 GPUs they take {million_hops} ms, nearly all of it latency. NCCL has faster algorithms for small gathers, which are not
counted. So the classifier should be split over no more GPUs than its memory needs; fastlift splits it over all.

### Data

{data_table}

With {decode_ms} ms of CPU time to decode and crop an image (measured on one core without DALI, [results](results.md#the-data-path)) and {image_kb} kB a file, the
mean of ImageNet. A DGX H100 has 112 cores for eight GPUs, so decoding for a ViT-B/16 on CPUs takes nearly all; DALI moves it to the
GPUs. A node's {node_gb} GB/s are {node_share} % of a network of 100 Gb/s, if nothing is kept in its page cache.

## The batch size

LIFT's recipe has a batch of 128, and it was not examined at others here. More GPUs help in three ways:

1. **More runs at once**: seeds, learning rates, data sets, one GPU each. This scales without limit and needs nothing of the above.
2. **More data**: ten million images in 10 epochs are {ten_steps} steps of 128, {ten_hours} hours of one H100. With a batch of 1,024, eight
   GPUs take {ten_minutes} minutes, and make {ten_updates} updates.
3. **Larger models**: a ViT-L/14's step of 128 images takes {large_one} ms on one GPU and {large_eight} ms on eight.

A larger batch needs another learning rate. Usual rules multiply it by the factor of the batch (with a warm-up) or by its square root;
which of them holds for LIFT was not tried. With 4,096, ImageNet-LT has {updates} updates in 10 epochs. A class of 5 images then is in one update of
six, in place of one of 181. So first try the batch that you plan on one GPU (`--micro-batch` makes it fit), compare many, medium and few
with those of 128, and only then add GPUs.

## What breaks first

### At 10 GPUs

- **Small files.** Ten GPUs open {ten_opens} files/s, more than many a metadata server can answer. Use shards (`fastlift data pack`).
- **Decoding**: {cores} cores a GPU for ViT-B/16. Use DALI, or packs with a short side of 256 pixels.
- **The second node**: with a batch of 128 and without `--compile max` the step becomes slower, not faster (table above).

### At 100 GPUs

- **The batch**: at 128, every GPU has one image, and the step is launches and latency. Batches of 4,096 and more are needed to use them.
- **The store**: {hundred_gb} GB/s, if nothing stays in the page cache. ImageNet-LT (12.5 GB) does, and is read once per node. Of a set that is larger
  than memory every byte comes over the network in every epoch.
- **Start-up**: the first process of each machine indexes or reads the cached index; the others read it. Each process loads weights (600 MB of
  a ViT-B/16 with its text tower): 100 times that from one file server of 10 GB/s is 6 s, from one of 1 GB/s a minute.
- **Evaluation** is shared by batches: 50,000 test images are {ranks_test} s of one H100. With 100 GPUs it is over before the processes have begun.
- **Checkpoints** are written by the first process, while the others wait: 15 ms for LIFT, 0.9 s for full fine-tuning (measured on one
  core). A split classifier of a million classes is {million_gb} GB with its momentum, and takes {million_s} s at that rate.

### At 1,000 GPUs

- **Stragglers.** A step ends with the slowest. If the times of GPUs vary by 5 % independently (assumed, normal), the slowest of N is
  0.05 sqrt(2 ln N) above the mean: 10 % for 8, 15 % for 100, 19 % for 1,000. One slow disk or hot GPU slows all. The log and the report
  tell how long each process waits for data.
- **The store**: {thousand_gb} GB/s and {opens} million files/s. Only packs on local disks, or a data set in page caches, can deliver that.
- **The rendezvous and the notes** of all processes are in one store on one machine, which is lost with it.
- **Failures**, which come every {failing} hours:

{failures_table}

One failure in {gpu_hours} GPU hours: 419 unexpected interruptions in 54 days of 16,384 H100s (Llama 3, arXiv 2407.21783). Every failure
stops a synchronous run. The best interval is sqrt(2 x time of a save x time between failures) (Young 1974, Daly 2006). Lost: saving,
half an interval and a restart of 3 minutes (assumed) a failure. A LIFT checkpoint is so cheap that one every {lift_interval} s is best for
1,000 GPUs: `--checkpoint-steps 3000` at 22 ms a step. But a run of minutes meets no failure. Spot machines are another
matter: if each of 125 is taken once a day, one is taken every 11.5 minutes.

## Ten million images a day

10,000,000 / 86,400 = {day} images/s.

| | computed | of one machine |
|---|---|---|
| training on each image once, ViT-B/16 | {day} / {speed} images/s | {day_gpu} % of an H100 |
| prediction, one crop | {day} / {evaluated} images/s | {day_evaluated} % of an H100 |
| decoding | {day} x {decode_ms} ms | {day_cores} cores |
| reading | {day} x {image_kb} kB | {day_mb} MB/s |
| keeping | 10,000,000 x {image_kb} kB | {day_tb} TB a day, {year_tb} TB a year |

So computing is not what breaks. These are:

- **Files.** One file an image is 3.65 thousand million a year: no file system lists them in useful time, and an inode of 256 bytes each is 0.9 TB of
  metadata. Shards of 1 GiB are {shards} a day. A pack or WebDataset shard is written once, with its index beside it.
- **The index** of everything is in memory at the start: at about 100 bytes an image (path, label, size, place; an assumption), a day is 1 GB, a year 365 GB. Train on a
  window of days, or on a sample; a run's index is made per shard and cached, so a new day adds its own shards only.
- **An epoch over a year** is {year} thousand million images: {year_days} days of one H100, {year_hours} hours of eight. With so much data one
  epoch is enough to see each image, and LIFT's schedule over ten is another recipe. Neither was tried.
- **The long tail moves.** New classes change the classifier's shape, and counts change the prior of the loss. A run fixes both at its
  start, so each day or week is a run of its own. It takes minutes, so it may begin anew from the text.
- **Labels**: ten million a day have to come from somewhere.

Written by `python -m benchmarks.scaling.page`; measurements are read from `benchmarks/results/scaling.json`
([how to make them](../benchmarks/scaling/README.md)).
"""
