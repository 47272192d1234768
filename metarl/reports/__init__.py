"""Analyses, tables and figures."""
