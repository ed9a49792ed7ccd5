"""Tables and figures from the records: reads only, needs no torch, and gives the same bytes for the same records."""
