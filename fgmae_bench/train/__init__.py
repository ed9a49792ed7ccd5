"""The one training loop for everything that back-propagates further than a head."""
