"""Released checkpoints of other projects, written as folders that `vidreward.load` opens."""
