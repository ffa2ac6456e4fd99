"""Reads projects for the package aqueduct, without importing them, and finds what works differently here."""
