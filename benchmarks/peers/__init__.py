"""What sampling is measured beside: each a script for an environment of its own."""
