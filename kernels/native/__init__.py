"""The native CPU library: C++ compiled at install, loaded through ctypes; see ../README.md."""
