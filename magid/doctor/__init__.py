"""`magictl doctor`: facts are collected first, and then checked by pure functions."""
