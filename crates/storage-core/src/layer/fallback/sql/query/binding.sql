SELECT primary_name, secondary FROM binding
