"""An image is read once: one decode serves audit, usability and view, and a second run decodes nothing."""
