"""The probe engine: many heads on one stream of frozen features."""
