"""False alarms, delays, and what congestion adds: a study of the monitor."""
