"""Tools beside the core, which never imports them: the command line and its commands."""
