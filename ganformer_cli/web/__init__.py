"""The local pages. Training never imports this room."""
