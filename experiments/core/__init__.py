"""What every run needs: its config checked, its cache, its report, its tracker."""
