"""Tasks of EleutherAI's lm-evaluation-harness, run on merges in memory.

Nothing of lm_eval, datasets or torch is imported before a suite names such a task.
"""
