"""The `skyrl` command and the subcommands that come with the core."""
