-- Delete a published learngene, and every file that was published under its name.
-- KEYS[1]  hash        the digest of each published name's current file
-- KEYS[2]  hash        the record of the file of each digest, current or superseded
-- KEYS[3]  string      changes with every change of the two
-- KEYS[4]  sorted set  object keys by the second from which on they may be deleted
-- ARGV[1]  the name
-- ARGV[2]  the version after the change; there was never another like it
-- Returns  1 if it was deleted, 0 if there is none.
-- Invariant: an object that a deleted record named is in KEYS[4].
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
local files = redis.call('HGETALL', KEYS[2])
for index = 1, #files, 2 do
  local read, fields = pcall(cjson.decode, files[index + 1])
  if read and type(fields) == 'table' and fields.name == ARGV[1] then
    redis.call('HDEL', KEYS[2], files[index])
    if type(fields.object_key) == 'string' then
      redis.call('ZADD', KEYS[4], 0, fields.object_key)
    end
  end
end
redis.call('SET', KEYS[3], ARGV[2])
return 1
