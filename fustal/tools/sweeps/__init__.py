"""Many runs: plans of sweeps, execution on workers, progress, tables of results, ablations."""
