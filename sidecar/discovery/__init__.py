"""Sources of endpoints. Each yields whole snapshots; none knows the engine."""
