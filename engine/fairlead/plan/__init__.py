"""Decisions: image + request + host facts -> Plan. Pure: no file, no clock, no environment."""
