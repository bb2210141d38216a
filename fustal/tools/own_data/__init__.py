"""Cards and presets for a user's own data: `fustal init` and `fustal validate`."""
