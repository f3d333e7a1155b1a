"""Tests of images on the device."""
