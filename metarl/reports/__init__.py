"""What people look at: analyses, tables and figures."""
