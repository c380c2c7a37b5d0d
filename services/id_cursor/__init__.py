"""The publisher arm `id_cursor`: a relay that remembers the highest position it has published."""
