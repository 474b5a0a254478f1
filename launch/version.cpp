namespace wuneng { int placeholder() { return 0; } }
