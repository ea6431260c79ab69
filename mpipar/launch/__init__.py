"""Jobs of a cluster: sbatch text from a config, what became of submitted runs, and whether a start is sound."""
