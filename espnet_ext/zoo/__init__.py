"""Packages of trained models: pack, publish, find, and load them without running anything that is inside."""
