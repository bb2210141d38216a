"""Many runs: plans of sweeps, workers, progress, tables of results, the ablation."""
