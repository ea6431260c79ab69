"""The sides of ``benchmarks/compare_torch.py``: one model, one stream of data, a worker process for each rank."""
