"""The routes, a module for each protocol. They read requests and shape answers; CaptionService does the work."""
