"""From hidden states to a task's outputs: functions that model classes name in their `heads`."""
