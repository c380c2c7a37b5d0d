"""Everything known of one message: its spans and log lines in the lab's files, its rows in the ledgers."""
