"""Tests of pictures that are drawn by code."""
