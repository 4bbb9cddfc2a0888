"""Beside the way: metrics, health, logs. Reads what the stages tell; changes nothing."""
