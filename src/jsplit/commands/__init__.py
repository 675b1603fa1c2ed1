"""The command `jsplit`, one file for what each part of it does; `parser` says what there is."""
