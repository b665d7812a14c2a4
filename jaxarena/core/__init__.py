"""What any layer may use; nothing here knows about markets."""
