"""The `ovsnet` command. Every subcommand is a module here or elsewhere that `main` loads when it is named."""
