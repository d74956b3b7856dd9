"""QuickGELU and GELU whose backward needs the pre-activation alone; see ../README.md."""
