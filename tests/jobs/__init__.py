"""Jobs: tasks that outlive the request and the process that accepted them."""
