"""Keep a copy of the site's activity up to date."""
