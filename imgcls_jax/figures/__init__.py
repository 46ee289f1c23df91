"""Pictures and pages that the commands draw."""
