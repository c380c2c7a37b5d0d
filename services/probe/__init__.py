"""The probe: the one process that says how the shared state stands, whoever is dead. Apart from the auditor."""
