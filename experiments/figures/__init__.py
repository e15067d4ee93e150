"""Pictures, drawn from what a run saved: the only place that imports matplotlib."""
