"""What both scripts share: settings, a run and its folder, and what is said of errors."""
