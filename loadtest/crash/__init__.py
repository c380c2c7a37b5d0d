"""The crash matrix: every failpoint x every process that has it, killed there, restarted, drained and audited."""
