"""Sphinx extensions of this book, one idea a module."""
