# The account of the service, with all the rights that it needs. The image's entrypoint sources this file (which is
# not executable for that reason) and brings docker_process_sql along.
repl_password=$(cat "${REPL_PASSWORD_FILE:-/run/secrets/source_repl_password}")
docker_process_sql <<SQL
CREATE USER 'repl'@'%' IDENTIFIED BY '${repl_password}';
GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'repl'@'%';
SQL
unset repl_password
