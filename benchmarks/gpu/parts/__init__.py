"""One file a part of ``python -m benchmarks.gpu``; each has ``run(bench)``, which makes rows."""
