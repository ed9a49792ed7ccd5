"""Downloads: HTTP, checksums, archives."""
