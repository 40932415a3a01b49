"""Video rewards inside other libraries, none of which vidreward needs itself."""
